"""What the system tests stand on: real services, a real Redis, real machines, and a frontend."""
