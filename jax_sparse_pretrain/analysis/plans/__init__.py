"""Runs that a law asks for."""
