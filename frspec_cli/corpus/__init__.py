"""Where text comes from: files, folders, globs, fsspec URLs and hub datasets, read as a stream of documents."""
