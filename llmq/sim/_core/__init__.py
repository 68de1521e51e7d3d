"""Any policy, many engines at once: arrays whose first axis is the lane and whose last is the row."""
