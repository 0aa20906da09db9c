// Placeholder until the ring lands.
