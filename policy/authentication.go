package policy

// AuthenticationSet is every RequestAuthentication, by what it is for. It is immutable.
type AuthenticationSet struct{}
