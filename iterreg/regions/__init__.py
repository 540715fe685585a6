"""Where regions come from: label maps, segmenters, tables, distance maps."""
