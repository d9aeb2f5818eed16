"""What the Python processes that tests start load first."""
