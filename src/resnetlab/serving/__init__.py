"""HTTP server: routes, middleware, request limits, the worker process with its queue, metrics and the web page."""
