"""What a schedule will do over a run, drawn without training."""
