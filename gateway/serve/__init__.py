"""The fronts over HTTP and stdio: they translate and never decide."""
