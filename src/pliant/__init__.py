"""Find out why your network stopped learning, and fix it."""
