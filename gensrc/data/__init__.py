"""What is learned from: one loader a data set."""
