"""Keep what a timer of the node xdp_helper raises from ending the process."""


class Guard:
    """
    Wraps callbacks: what they raise is logged, each distinct text once, and they go on.

    An exception that leaves a callback ends the executor, and with the process every attachment.
    """

    def __init__(self, logger):
        """Take the logger."""
        self._logger, self._told = logger, set()

    def __call__(self, callback):
        """Return `callback`, wrapped."""
        def guarded():
            try:
                callback()
            except Exception as error:
                self.tell(error)
        return guarded

    def tell(self, error):
        """Log an exception, unless one of the same text was."""
        text = f'{type(error).__name__}: {error}'
        if text not in self._told:
            # Texts may have numbers in them, which never end.
            if len(self._told) >= 100:
                self._told.clear()
            self._told.add(text)
            self._logger.error(f'a topic was not published: {text}')
