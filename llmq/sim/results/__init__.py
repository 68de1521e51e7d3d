"""What a run says: records, summaries, metrics, intervals, verdicts and checks."""
