"""Who may say what: keys, the repository of approved versions, and the robot's check of it."""
