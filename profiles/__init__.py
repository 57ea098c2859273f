"""What is active: profiles, their generations, and the changes from one set to another."""
