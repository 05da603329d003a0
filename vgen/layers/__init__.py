"""What a method inserts into the image UNet."""
