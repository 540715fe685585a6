"""Pictures and figures of a result, for people to look at."""
