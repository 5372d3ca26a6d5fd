"""From a wish to jobs in the queue; and steering them: cancel, resume."""
