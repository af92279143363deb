"""The progress bar of `resnetlab evaluate` on standard error."""


class ProgressBar:
    """A progress bar on stderr, if stderr is a terminal."""

    def __init__(self, *, enabled: bool) -> None:
        from rich.progress import Progress

        from resnetlab.cli.console import open_console

        console = open_console(stderr=True)
        self._progress = Progress(console=console, transient=True, disable=not (enabled and console.is_terminal))
        self._task = self._progress.add_task("opening")

    def __enter__(self) -> "ProgressBar":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def update(self, stage: str, done: int, total: int) -> None:
        """Show the number of images done in a stage."""
        self._progress.update(self._task, description=stage, completed=done, total=total)

    def log(self, line: str) -> None:
        """Print a line above the bar."""
        self._progress.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def start_evaluation(self, total: int) -> None:
        """Start counting evaluated images."""
        self._progress.update(self._task, description="evaluating", completed=0, total=total)

    def advance(self, count: int) -> None:
        """Count evaluated images."""
        self._progress.advance(self._task, count)
