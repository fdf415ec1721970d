"""What runs inside the training job: finds bubbles and opens the gate. Never waits for a trial."""
