"""Speed: the package compared with the authors' procedure, and the roofline of both."""
