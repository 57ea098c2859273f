"""The machines that follow profiles: what they report, their states, and rollouts to them."""
