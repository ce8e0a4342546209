"""One module a library that runs models; each imports its library when a session opens, not before."""
