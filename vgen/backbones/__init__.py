"""Image models as guests: loading them, naming their sites, and the VideoUNet that holds what is inserted."""
