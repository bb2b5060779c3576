"""What is logged once a process is logged once a test here."""

import pytest

from dunwu._utils.logging import forget_logged_once


@pytest.fixture(autouse=True)
def _nothing_was_logged_before():
    forget_logged_once()
