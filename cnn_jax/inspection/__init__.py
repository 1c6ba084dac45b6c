"""What a network is and what it sees: its layers, data flow, features and weights."""
