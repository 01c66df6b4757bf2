// Package service is the frame around a process of rucflow: settings from the
// environment, the log, signals, the NATS connection and the ops listener. What
// a service does is not here; a main is one call of Main.
package service
