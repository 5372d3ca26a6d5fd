"""What failures look like, why they happen and what to do: one data file and its reader."""
