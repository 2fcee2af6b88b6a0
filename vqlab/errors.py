"""The one error a user can cause. Alone in its file, so that naming it costs no import of torch."""


class UserError(Exception):
    """A mistake of the user's: one clear sentence (who must be what; got what; what to do).

    The command line prints the sentence and exits with status 2; it never shows a traceback.
    """
