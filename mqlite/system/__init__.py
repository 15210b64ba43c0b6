"""What the operating system gives: time, LMDB environments, files of a store, signs of life."""
