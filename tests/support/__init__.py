"""What several test files share: references, cases, and the scripts of other processes."""
