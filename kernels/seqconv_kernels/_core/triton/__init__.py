"""What the kernels in Triton share: functions compiled into them, and when they can run."""
