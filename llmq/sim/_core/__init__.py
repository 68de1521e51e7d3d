"""Any policy on many engines at once: arrays of lanes (first axis) and rows (last axis)."""
