"""Speed: the package beside the authors' procedure, and the roofline of both."""
