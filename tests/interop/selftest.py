"""A judge that cannot say no proves nothing, so it is asked first, always."""

import io
import sys
import unittest


def ask(folder, only, say):
    """Runs the folder's tests of its judge. Ends with their result when `only` that is wanted, or when one fails."""
    tests = unittest.defaultTestLoader.discover(str(folder), "test_*.py")
    told = sys.stderr if only else io.StringIO()
    outcome = unittest.TextTestRunner(told, verbosity=2).run(tests)
    if only or not outcome.wasSuccessful():
        if not only:
            say(told.getvalue())
        failed = len(outcome.failures) + len(outcome.errors)
        print(f"{outcome.testsRun - failed} passed, {failed} failed, 0 skipped")
        sys.exit(not outcome.wasSuccessful())
