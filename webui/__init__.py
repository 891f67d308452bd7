"""What people see and programs call: routes, pages, API, streams and the IDE relay."""
