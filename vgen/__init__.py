"""vgen: motion for frozen image diffusion models. Importing the package itself costs nothing; import the room
you need."""

__version__ = "0.1.0"
