"""The pages by which somebody connects an account. They show no tenant's things and hold no session."""
