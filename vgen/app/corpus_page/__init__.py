"""The page that ``vgen prepare`` ends with: what lies in a folder of shards, to look at."""
