"""Key stores for tests: each module sets one up, real where it runs here, and names its URI."""
