"""Other engines that serve a sealed artifact: how to start one so that its numbers are rewards, and a check of it."""
