"""What others have made, read or obeyed: their demonstrations and their chat templates. A first reading skips it."""
