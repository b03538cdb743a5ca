# Asks for the URL in URL with Net::HTTP, with the token as a bearer, and prints
# the answer.
require 'net/http'

url = URI(ENV.fetch('URL'))
answer = Net::HTTP.start(url.host, url.port, use_ssl: url.scheme == 'https') do |http|
  http.get(url.request_uri, 'Authorization' => "Bearer #{ENV.fetch('API_KEY')}")
end
answer.value # raises unless 2xx
print answer.body
