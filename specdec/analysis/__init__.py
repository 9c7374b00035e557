"""What theory says a method can reach."""
