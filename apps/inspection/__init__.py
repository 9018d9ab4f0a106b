"""What files are, by what stands in their headers; a file for each kind of them."""
