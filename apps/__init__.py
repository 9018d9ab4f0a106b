"""Programs around the library: parse, call, show."""
