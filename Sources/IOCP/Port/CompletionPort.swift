// Placeholder until the port lands.
