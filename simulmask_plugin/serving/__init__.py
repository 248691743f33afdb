"""`simulmask serve`: one model for many clients, who see every READ and WRITE as it happens."""
