"""Evaluation of networks on images with labels.

`evaluate` evaluates model files in one call, `evaluator` opens networks and data, `protocols` and `crops` hold the
paper's test protocols, `predictions` and `metrics` the results, `html_report` and `figures` the HTML page.
"""
