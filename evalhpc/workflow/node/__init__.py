"""What runs inside jobs: one function a batch script."""
