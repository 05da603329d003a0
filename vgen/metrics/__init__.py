"""Numbers from videos. Every metric is a function that returns plain numbers, and has an id and a version
that reports carry."""
