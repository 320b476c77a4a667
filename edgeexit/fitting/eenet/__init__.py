"""What an EENet learns: scores that say which exit is right, and the shares that are to leave at each."""
