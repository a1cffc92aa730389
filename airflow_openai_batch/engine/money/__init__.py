"""What requests cost: prices, estimates, caps. Pure: no store, no client, no clock."""
