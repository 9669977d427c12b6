"""Runs: from their files to arrays, and what they had on average."""
