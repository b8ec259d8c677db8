"""What a run does, one file a phase. Each offers `measure(context) -> Outcome`; the runner calls them in order."""
